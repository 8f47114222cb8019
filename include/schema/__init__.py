"""What a source table is and was, and what raw needs to be to hold its rows."""

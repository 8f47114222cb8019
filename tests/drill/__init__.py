"""`make prove`: random writers and random faults against the real tasks, and an oracle that must find no loss."""

"""What the product knows of PostgreSQL: sessions, the server at the other end, its catalogs."""

"""What the valuer keeps: one schema over SQLite now and PostgreSQL later, and the ways in and out."""

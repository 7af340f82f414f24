"""What a job needs of a slice that nobody has rented yet: memory, time, money, data."""

"""An independent brute-force oracle for point-in-time features: it shares no code with the kit it checks."""

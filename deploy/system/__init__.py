"""What the operating system is asked for: files, memory, signals, progress, checksums, and errors a user can act on."""

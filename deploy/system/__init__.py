"""What the operating system is asked for: files, memory, signals; and errors to act on."""

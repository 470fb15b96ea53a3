"""Where messages come from: one file a kind of source, one thread a socket."""

"""Where snapshots go: one file a destination, each driven by its own `PublisherThread`."""

"""The stream around `ptyinr`: from HXN's sockets to frames with positions, and from snapshots to Tiled."""

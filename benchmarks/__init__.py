"""What the figures of the design are measured with: `just bench-sync`, `-query` and `-peer`."""

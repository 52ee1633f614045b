"""Stage 1, m = SAM2(x): a mask for every image, found by a prompt strategy."""

"""From image files to batches: sources of encoded images, one decoder, the multi-crop data set."""

"""Transfer of a trained student: detection and segmentation (Table 11), other classes."""

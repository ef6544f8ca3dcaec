"""Labels that other programs have written, as label stores: one module for each kind of files."""

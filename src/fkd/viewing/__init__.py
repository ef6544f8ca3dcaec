"""Looking into a label store: a summary for the terminal and a page for the browser."""

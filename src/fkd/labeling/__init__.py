"""The teacher's side: run it once over random crops of all images and store its soft labels."""

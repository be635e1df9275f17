"""What knows CRIU: dump, restore, images, pages, and what a container is to CRIU."""

"""What the batch stage and the trainer share: images, masks on disk, datasets."""

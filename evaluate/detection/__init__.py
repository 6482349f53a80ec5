"""Transfer to object detection: fine-tune a whole detector on PASCAL VOC or COCO from pretrained
weights."""

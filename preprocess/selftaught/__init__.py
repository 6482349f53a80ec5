"""The label-free network: trained from unsupervised saliency maps only. See docs/selftaught.md."""

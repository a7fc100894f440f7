"""Archives of images: zip and tar, also compressed. They may be malicious, so names, sizes and content are checked."""

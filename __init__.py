"""Two-phase transfer learning on images: the frozen network sees each image once."""

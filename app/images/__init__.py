"""Images: format detection, base64 decoding, bounded downloads and signed links."""

"""The boot log of firmware, boot loader and kernel stub: parse, replay, read what the digests cover, appraise. TCG PC Client
Platform Firmware Profile, version 1.06."""

#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# mkinitfs has a trigger for kernels; this one is for our files.
@IMAGES@
if is_asked_for; then
	make_images
fi

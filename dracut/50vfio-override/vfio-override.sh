#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Sourced by dracut's init. What comes of it is in the kernel log; the boot goes on in any case.
/usr/lib/vfio-override/vfio-override-early --modprobe || :

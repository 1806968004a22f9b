#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Alpine's mkinitfs, in its checkout and in a Debian:
#   mkinitfs.sh setup
#   mkinitfs.sh load RELEASE MODULES
#   mkinitfs.sh make RELEASE IMAGE MODULES
set -e

setup() {
	# In glibc this waits for a thread that never ends; in Alpine's musl it does not wait.
	sed -i /pthread_cond_destroy/d nlplug-findfs/nlplug-findfs.c
	command make install CC=gcc MAN_FILES= CFLAGS="-g -D_GNU_SOURCE $(pkgconf --cflags blkid libkmod libcryptsetup)"
	# It takes links and not what they lead to, of which Debian has more than Alpine; kmod opens its decompressors by name.
	opened=$(ls /usr/lib/*/liblzma.so.? /usr/lib/*/libzstd.so.?)
	{
		echo "$opened"
		{ echo "$opened" && lddtree -l /bin/sh /bin/busybox /sbin/modprobe /sbin/nlplug-findfs; } | xargs readlink -f
	} >/etc/mkinitfs/features.d/host.files
	# As docs/alpine.md has it.
	echo /usr/lib/vfio-override/vfio-override-early >/etc/mkinitfs/features.d/vfio-override.files
}

load() {
	for module in $2; do
		modinfo --set-version "$1" --field filename "$module" | sed "s|.*/lib/modules/$1/||"
	done >/etc/mkinitfs/features.d/host.modules
}

make() {
	load "$1" "$3"
	mkinitfs -F "base host vfio-override" -C none -o "$2" "$1"
}

"$@"

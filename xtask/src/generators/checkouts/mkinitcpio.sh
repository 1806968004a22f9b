#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# mkinitcpio, in its checkout and in a Debian:
#   mkinitcpio.sh setup
#   mkinitcpio.sh make RELEASE IMAGE MODULES HOOKS
set -e

setup() {
	meson setup build --prefix=/usr --libdir=lib --sysconfdir=/etc -Dkernel_install=false -Dalpm=false \
		-Dpresets=false -Ddocs=false
	meson install -C build
	# What it takes into images is looked for where Arch Linux has it.
	for program in /usr/sbin/*; do
		[ -e "/usr/bin/${program##*/}" ] || ln -s "../sbin/${program##*/}" /usr/bin/
	done
	for library in kmod seccomp acl blkid mount audit pam; do
		cp /usr/lib/x86_64-linux-gnu/lib$library.so.[0-9] /usr/lib/
	done
	cp /usr/bin/busybox /usr/lib/initcpio/busybox
	# Arch Linux' has none of what kmod and util-linux have.
	sed -i 's/busybox --list/& | grep -vxE "kmod|(dep|ins|ls|rm)mod|mod(info|probe)|blkid|u?mount|switch_root"/' \
		/usr/lib/initcpio/install/base
	systemd-hwdb update
	systemd-hwdb update --usr
}

make() {
	cat >"$2.conf" <<CONF
MODULES=($3)
HOOKS=($4)
COMPRESSION=cat
CONF
	mkinitcpio --config "$2.conf" --kernel "$1" --generate "$2"
}

"$@"

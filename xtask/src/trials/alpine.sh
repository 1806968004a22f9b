#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# A Debian as what Alpine is to a package, with checkouts of apk-tools, abuild and mkinitfs in /tmp. What calls it adds
#   setup RELEASE
# or
#   make ARCHIVE
set -e

# Makes packages, as root must not.
user() {
	HOME=/home/maker setpriv --reuid=maker --regid=maker --init-groups sh -euc "$@"
}

setup() {
	chmod 1777 /tmp
	cd /tmp/apk-tools
	meson setup build --prefix=/usr --libdir=lib --default-library=static -Dlua=disabled -Dpython=disabled \
		-Ddocs=disabled -Dhelp=disabled -Dtests=disabled
	meson install -C build
	# abuild calls it there.
	ln -s ../bin/apk /usr/sbin/apk
	cd /tmp/abuild
	command make install SCDOC=true CFLAGS=-g

	# BusyBox' shell and tools, but what Alpine has of others, and what Debian's BusyBox has a part of only.
	for applet in $(busybox --list); do
		case "$applet" in
		awk | busybox | cpio | depmod | find | mke2fs | modinfo | modprobe | setpriv | tar) continue ;;
		esac
		place=$(command -v "$applet") || place=/usr/bin/$applet
		ln -sf /usr/bin/busybox "$place"
	done

	echo 'maker:x:1000:1000::/home/maker:/bin/sh' >>/etc/passwd
	printf '%s\n' maker:x:1000: abuild:x:300:maker >>/etc/group
	mkdir -p /home/maker /etc/apk/keys
	chown maker:maker /home/maker
	user 'abuild-keygen -a -n'
	find /home/maker -name '*.rsa.pub' -exec cp {} /etc/apk/keys ';'

	# What apk is to know of the system.
	cd /tmp
	apk mkpkg --info name:system --info version:1 --info license:MIT --info arch:noarch \
		--info 'provides:/bin/sh build-base make mkinitfs' --output system.apk
	apk add --initdb --allow-untrusted ./system.apk

	# Neither the feature of its page, nor an image that has it.
	rm /etc/mkinitfs/features.d/vfio-override.files
	echo 'features="base ext4 host"' >/etc/mkinitfs/mkinitfs.conf
	rm -f /boot/initrd.img-*
	mkdir -p /usr/share/kernel/lts
	echo "$1" >/usr/share/kernel/lts/kernel.release
	mkinitfs -o /boot/initramfs-lts "$1"
}

# As docs/packages.md has it.
make() {
	# shellcheck disable=SC2016 # It is the user's shell that knows them.
	user 'cd
		zstd -dc "$1" | tar -x
		name=${1##*/}
		cd "${name%.tar.zst}/packaging/alpine"
		REPODEST=~/packages abuild -r' sh "$1"
}

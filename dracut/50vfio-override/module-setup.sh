#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# dracut module: see docs/dracut.md.
# shellcheck disable=SC2154 # Variables without a value here are dracut's.

# In every image: what is meant for a guest is not known when the image is built.
check() {
	return 0
}

depends() {
	return 0
}

installkernel() {
	# As in images for any host: nobody else here may need them. One that is built in, or gone, is passed over.
	hostonly='' instmods vfio-pci vfio_iommu_type1 pci-stub
}

install() {
	local early=/usr/lib/vfio-override/vfio-override-early
	local unit=vfio-override-initrd.service
	local rule=70-vfio-override.rules
	local wants="$systemdsystemunitdir/sysinit.target.wants"

	if [[ -e $dracutsysrootdir${early%/*}/.incomplete ]]; then
		give_up "an installation of vfio-override did not come to its end; install it again, or uninstall it"
	fi
	inst_simple "$early"
	chmod 755 "$initdir$early"
	ln_r "$early" /vfio-override-early
	if [[ -e $srcmods/modules.alias ]]; then
		sed -n '/^alias vfio_pci:/p' "$srcmods/modules.alias" >"$initdir${early%/*}/variants"
	fi
	inst_rules "$rule"

	if dracut_module_included systemd; then
		inst_simple "/usr/lib/systemd/system/$unit" "$systemdsystemunitdir/$unit"
		mkdir -p "$initdir$wants"
		ln -sfn "../$unit" "$initdir$wants/$unit"
		require_in_image "$systemdsystemunitdir/$unit" "$wants/$unit"
	else
		# Before rd.driver.pre and force_drivers, which dracut loads at cmdline 01.
		inst_hook cmdline 00 "$moddir/vfio-override.sh"
		# dracut-ng has it there, dracut 059 in /lib.
		local hook=/var/lib/dracut/hooks/cmdline/00-vfio-override.sh
		[[ -e $initdir$hook ]] || hook=${hook#/var}
		require_in_image "$hook"
	fi
	require_in_image "$early" /vfio-override-early "/usr/lib/udev/rules.d/$rule"
}

# dracut goes on where a module could not install a file; an image without the hook would look like one with it.
require_in_image() {
	local file
	for file; do
		if [[ ! -s $initdir$file ]]; then
			give_up "$file is empty or did not get into the image; is vfio-override installed completely?"
		fi
	done
}

give_up() {
	dfatal "vfio-override: $1"
	exit 1
}

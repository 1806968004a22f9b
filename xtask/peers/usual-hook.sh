#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# The usual hook of guides to PCI passthrough, written from what they describe: every display but the one that
# the firmware booted on, each with its audio function.

for file in /sys/bus/pci/devices/*/boot_vga; do
	if [ "$(cat "$file")" -eq 0 ]; then
		display=${file%/boot_vga}
		audio=$(echo "$display" | sed -e 's/0$/1/')
		echo vfio-pci >"$display/driver_override"
		echo "<5>hook: $display: driver_override set to vfio-pci" >>/dev/kmsg
		if [ -d "$audio" ]; then
			echo vfio-pci >"$audio/driver_override"
			echo "<5>hook: $audio: driver_override set to vfio-pci" >>/dev/kmsg
		fi
	fi
done

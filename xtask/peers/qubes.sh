#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# What Qubes' dracut module does in bash with lspci and awk, written from its documentation: find the
# controllers of some classes, see that each is there, take it from its driver and hide it. Its driver
# is pciback, under Xen; here it is vfio-pci.

for address in $(lspci -Dmmn | awk '$2 ~ /^"?(0300|0403)"?$/ { print $1 }'); do
	device=/sys/bus/pci/devices/$address
	if [ ! -e "$device" ]; then
		echo "<3>hook: $address: no such function" >>/dev/kmsg
		exit 1
	fi
	if [ -e "$device/driver" ]; then
		echo "$address" >"$device/driver/unbind"
	fi
	echo vfio-pci >"$device/driver_override"
	echo "<5>hook: $address: driver_override set to vfio-pci" >>/dev/kmsg
done

#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Booster, in its checkout, where Go has built both of its programs, and in a Debian:
#   booster.sh setup
#   booster.sh make RELEASE IMAGE MODULES
set -e

setup() {
	for program in generator/generator init/init; do
		[ -x "$program" ] || {
			echo "no $program: run go build in ${program%/*} of the checkout, with CGO_ENABLED=0" >&2
			exit 1
		}
	done
	# It looks there for what this host needs, which for an image of somebody else is nothing.
	mkdir -p /sys/module /sys/devices
}

make() {
	list=$(echo "$3" | tr ' ' ,)
	cat >image.yaml <<CONF
compression: none
modules: $list
modules_force_load: $list
CONF
	generator/generator build --force --config image.yaml --init-binary init/init --kernel-version "$1" "$2"
}

"$@"

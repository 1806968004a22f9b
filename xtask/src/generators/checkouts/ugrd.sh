#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# ugrd, in its checkout and in a Debian, with what it imports beside it:
#   ugrd.sh setup
#   ugrd.sh make RELEASE IMAGE MODULES
set -e

export PYTHONPATH="$PWD/src:$PWD/../zenlib/src:$PWD/../pycpio/src"

setup() {
	# It asks Python for its own version, which is known of what is installed.
	mkdir src/ugrd.dist-info
	printf 'Metadata-Version: 2.1\nName: ugrd\n' >src/ugrd.dist-info/METADATA
	sed -n 's/^version = "\(.*\)"$/Version: \1/p' pyproject.toml >>src/ugrd.dist-info/METADATA
	python3 -c 'import ugrd.main, zenlib, pycpio'
}

make() {
	# shellcheck disable=SC2086 # One word for each module.
	list=$(printf '"%s", ' $3)
	cat >image.toml <<CONF
modules = ["ugrd.base.base", "ugrd.kmod.kmod"]
kernel_modules = [$list]
kmod_init = [$list]
kmod_ignore_video = false
kmod_ignore_sound = false
kmod_ignore_network = false
kmod_autodetect_lspci = false

[mounts.root]
path = "/dev/vda"
type = "ext4"
CONF
	python3 -m ugrd.main --config image.toml --no-hostonly --no-validate --no-autodetect-root --no-compress \
		--kernel-version "$1" "$2"
}

"$@"

# SPDX-License-Identifier: MIT OR Apache-2.0
# Installs what is built: of an archive of a release it needs neither Rust nor anything else but a shell. In a checkout
# `cargo xtask install` builds first and then comes here. The list of files is packaging/files.

# What is /usr below DESTDIR. Only a package may have another one: the files themselves say /usr.
PREFIX = /usr
# Where the root directory is, for a package.
DESTDIR =
# Where the programs, the manual and the completions are.
BUILT = built

export PREFIX DESTDIR BUILT

help:
	@echo 'make install | uninstall   [DESTDIR=] [PREFIX=$(PREFIX)]'

install uninstall:
	@sh packaging/install $@

.PHONY: help install uninstall

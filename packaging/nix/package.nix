# SPDX-License-Identifier: MIT OR Apache-2.0
# The static archive of a release, installed below the store: { archive } is its file, fetched by whoever calls this.
{ stdenv, zstd, archive, version }:

stdenv.mkDerivation {
  pname = "vfio-override";
  inherit version;
  src = archive;
  # The archive is unpacked by it, which stdenv does not have.
  nativeBuildInputs = [ zstd ];
  dontBuild = true;
  # The programs are static, and the audited one must stay byte for byte as it is.
  dontStrip = true;
  dontPatchELF = true;
  installPhase = ''
    make install DESTDIR="$out" PREFIX=/
    # What generates the image here is NixOS itself.
    rm -r "$out/lib/vfio-override/removable" "$out/lib/dracut" "$out/lib/initcpio" "$out/share/initramfs-tools"
    substituteInPlace "$out/lib/udev/rules.d/70-vfio-override.rules" "$out/lib/systemd/system/vfio-override.service" \
      --replace-fail /usr/lib/vfio-override "$out/lib/vfio-override"
  '';
}

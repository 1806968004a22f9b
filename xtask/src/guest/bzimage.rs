// SPDX-License-Identifier: MIT OR Apache-2.0
//! Takes the ELF kernel out of a bzImage.
//!
//! QEMU starts the ELF file through its PVH entry, which skips real mode and decompression: under
//! emulation that saves two thirds of the time to /init. The header's fields are described in the
//! kernel's Documentation/arch/x86/boot.rst.

use std::io::Read;

use anyhow::{Context, Result, bail};

/// The first protocol version with `payload_offset` and `payload_length`.
const OLDEST_PROTOCOL: u16 = 0x0208;

const SECTOR: usize = 512;

/// A kernel image as distributions install it.
pub struct BzImage<'data> {
    bytes: &'data [u8],
}

impl<'data> BzImage<'data> {
    pub fn parse(bytes: &'data [u8]) -> Result<Self> {
        let image = Self { bytes };
        if image.field::<4>(0x202)? != *b"HdrS" {
            bail!("not a bzImage: the boot header's magic HdrS is missing");
        }
        let protocol = u16::from_le_bytes(image.field(0x206)?);
        if protocol < OLDEST_PROTOCOL {
            bail!("boot protocol {protocol:#06x} is too old, expected {OLDEST_PROTOCOL:#06x}");
        }
        Ok(image)
    }

    /// The kernel's release, as `uname -r` prints it.
    pub fn release(&self) -> Result<&'data str> {
        let offset = usize::from(u16::from_le_bytes(self.field(0x20e)?)) + 0x200;
        let text = self.bytes.get(offset..).unwrap_or_default();
        let end = text
            .iter()
            .position(|byte| matches!(byte, b' ' | 0))
            .context("the bzImage's version text has no end")?;
        std::str::from_utf8(&text[..end]).context("the bzImage's version is not text")
    }

    /// The ELF kernel.
    pub fn vmlinux(&self) -> Result<Vec<u8>> {
        let vmlinux = decompress(self.payload()?)?;
        if !vmlinux.starts_with(b"\x7fELF") {
            bail!("the bzImage's payload is not an ELF file");
        }
        Ok(vmlinux)
    }

    fn payload(&self) -> Result<&'data [u8]> {
        let [sectors] = self.field(0x1f1)?;
        // 0 means 4, for images older than the field.
        let sectors = if sectors == 0 { 4 } else { usize::from(sectors) };
        let setup = (sectors + 1) * SECTOR;
        let offset = usize::try_from(u32::from_le_bytes(self.field(0x248)?))?;
        let length = usize::try_from(u32::from_le_bytes(self.field(0x24c)?))?;
        self.bytes
            .get(setup + offset..)
            .and_then(|bytes| bytes.get(..length))
            .context("the bzImage is cut short: its payload ends behind the file")
    }

    fn field<const SIZE: usize>(&self, offset: usize) -> Result<[u8; SIZE]> {
        self.bytes
            .get(offset..offset + SIZE)
            .and_then(|bytes| bytes.try_into().ok())
            .context("not a bzImage: the file is too short")
    }
}

/// Unpacks what the kernel's build or its module installation may have packed.
///
/// A kernel's payload ends with its unpacked size, which is no part of the compressed stream.
pub fn decompress(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    match bytes {
        [0xfd, b'7', b'z', b'X', b'Z', ..] => {
            liblzma::read::XzDecoder::new(bytes).read_to_end(&mut out)
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => zstd::Decoder::new(bytes)
            .map(zstd::Decoder::single_frame)
            .and_then(|mut decoder| decoder.read_to_end(&mut out)),
        [0x1f, 0x8b, ..] => flate2::read::GzDecoder::new(bytes).read_to_end(&mut out),
        // This format has no end of its own, so that the size must be taken off.
        [0x02, 0x21, 0x4c, 0x18, .., _, _, _, _] => {
            lz4_flex::frame::FrameDecoder::new(&bytes[..bytes.len() - 4]).read_to_end(&mut out)
        }
        [0x7f, b'E', b'L', b'F', ..] => return Ok(bytes.to_vec()),
        _ => bail!(
            "unknown compression (magic {:02x?}), expected xz, zstd, gzip or lz4",
            &bytes[..bytes.len().min(4)]
        ),
    }
    .context("damaged compressed data")?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const ELF: &[u8] = b"\x7fELF and the rest of a kernel";

    /// A bzImage of two set-up sectors around `payload`.
    fn image(payload: &[u8], protocol: u16) -> Result<Vec<u8>> {
        let mut bytes = vec![0; 3 * SECTOR];
        bytes[0x1f1] = 2;
        bytes[0x202..0x206].copy_from_slice(b"HdrS");
        bytes[0x206..0x208].copy_from_slice(&protocol.to_le_bytes());
        bytes[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
        bytes[0x300..0x312].copy_from_slice(b"6.1.0-56-amd64 (x)");
        bytes[0x248..0x24c].copy_from_slice(&8_u32.to_le_bytes());
        let length = u32::try_from(payload.len() + 4)?;
        bytes[0x24c..0x250].copy_from_slice(&length.to_le_bytes());
        bytes.extend([0; 8]);
        bytes.extend(payload);
        bytes.extend(u32::try_from(ELF.len())?.to_le_bytes());
        bytes.extend(b"what follows is not the payload");
        Ok(bytes)
    }

    fn packed_every_way() -> Result<[Vec<u8>; 4]> {
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 6);
        xz.write_all(ELF)?;
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(ELF)?;
        // The kernel's lz4 is of the old format, which the crate reads but does not write.
        let block = lz4_flex::block::compress(ELF);
        let mut lz4 = vec![0x02, 0x21, 0x4c, 0x18];
        lz4.extend(u32::try_from(block.len())?.to_le_bytes());
        lz4.extend(block);
        Ok([xz.finish()?, gzip.finish()?, zstd::encode_all(ELF, 0)?, lz4])
    }

    #[test]
    fn the_kernel_comes_out_of_each_compression() -> Result<()> {
        for packed in packed_every_way()? {
            let image = image(&packed, 0x20f)?;
            let image = BzImage::parse(&image)?;
            assert_eq!(image.vmlinux()?, ELF);
            assert_eq!(image.release()?, "6.1.0-56-amd64");
        }
        Ok(())
    }

    #[test]
    fn what_is_no_bzimage_is_told() -> Result<()> {
        let told = |bytes: &[u8]| {
            BzImage::parse(bytes)
                .and_then(|image| image.vmlinux())
                .map_or_else(|error| error.to_string(), |_| String::new())
        };
        assert_eq!(told(b"MZ"), "not a bzImage: the file is too short");
        assert_eq!(told(&[0; 4096]), "not a bzImage: the boot header's magic HdrS is missing");
        assert_eq!(told(&image(ELF, 0x206)?), "boot protocol 0x0206 is too old, expected 0x0208");
        assert_eq!(
            told(&image(&[1, 2, 3, 4, 5], 0x20f)?),
            "unknown compression (magic [01, 02, 03, 04]), expected xz, zstd, gzip or lz4"
        );
        let cut = &image(ELF, 0x20f)?[..1600];
        assert_eq!(
            told(&cut[..cut.len() - 40]),
            "the bzImage is cut short: its payload ends behind the file"
        );
        Ok(())
    }
}

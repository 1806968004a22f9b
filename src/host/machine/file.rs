// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files that may be anything: a FIFO without a writer, a device, gigabytes.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::libc::O_NONBLOCK;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The most bytes of one file. The longest that is asked for, a kernel's `modules.alias`, has 2 MiB.
pub const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// What a file holds. Does not wait for anybody.
///
/// # Errors
///
/// Those of the kernel, `InvalidInput` for what is no regular file, and `FileTooLarge` beyond [`MAX_BYTES`].
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is no regular file"));
    }
    let mut text = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        let message = format!("it has more than {} MiB", MAX_BYTES >> 20);
        return Err(io::Error::new(ErrorKind::FileTooLarge, message));
    }
    Ok(text)
}

/// The same as text, with a replacement character for each byte that is none.
pub fn read_text(path: &Path) -> io::Result<String> {
    let text = read(path)?;
    Ok(String::from_utf8(text)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

/// What a file holds that a person names, up to [`MAX_BYTES`]: a pipe or a device, too. Waits for whoever writes to a pipe, and
/// a second for somebody who does.
///
/// # Errors
///
/// Those of the kernel, and `TimedOut` for a FIFO that nobody opens.
pub fn read_named(path: &Path) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path)?;
    let is_pipe = file.metadata()?.file_type().is_fifo();
    let deadline = Instant::now() + Duration::from_secs(1);
    let mut text = Vec::new();
    loop {
        match (&file).take(MAX_BYTES - text.len() as u64).read_to_end(&mut text) {
            Ok(_) if !is_pipe || !text.is_empty() => return Ok(text),
            Ok(_) if Instant::now() > deadline => {
                return Err(io::Error::new(ErrorKind::TimedOut, "nobody writes to it"));
            }
            Ok(_) => sleep(Duration::from_millis(10)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE)?;
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn only_a_file_of_bounded_size_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("file"), b"a\xff").unwrap();
        assert_eq!(read(&path("file")).unwrap(), b"a\xff");
        assert_eq!(read_text(&path("file")).unwrap(), "a\u{fffd}");

        mkfifo(&path("fifo"), Mode::S_IRWXU).unwrap();
        for what in [path("fifo"), directory.path().to_owned(), "/dev/zero".into()] {
            let error = read(&what).unwrap_err();
            assert_eq!(error.to_string(), "it is no regular file", "{}", what.display());
        }

        let error = read_named(&path("fifo")).unwrap_err();
        assert_eq!(error.to_string(), "nobody writes to it");
        let fifo = path("fifo");
        let slow = std::thread::spawn(move || {
            let mut writer = OpenOptions::new().write(true).open(fifo).unwrap();
            for part in [&b"slow"[..], b"ly"] {
                sleep(Duration::from_millis(100));
                writer.write_all(part).unwrap();
            }
        });
        assert_eq!(read_named(&path("fifo")).unwrap(), b"slowly");
        slow.join().unwrap();
        assert_eq!(read_named(&path("file")).unwrap(), b"a\xff");
        assert_eq!(read_named(Path::new("/dev/null")).unwrap(), b"");
        assert_eq!(read_named(Path::new("/dev/zero")).unwrap().len() as u64, MAX_BYTES);

        let large = std::fs::File::create(path("large")).unwrap();
        large.set_len(MAX_BYTES).unwrap();
        assert_eq!(read(&path("large")).unwrap().len() as u64, MAX_BYTES);
        large.set_len(MAX_BYTES + 1).unwrap();
        assert_eq!(read(&path("large")).unwrap_err().to_string(), "it has more than 16 MiB");
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! QEMU's machine protocol: plugs functions into a running guest and takes them out.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// The name of the socket in the directory that QEMU runs in.
pub const SOCKET: &str = "qmp.sock";

/// A conversation with QEMU.
pub struct Monitor<Stream> {
    stream: BufReader<Stream>,
}

impl Monitor<UnixStream> {
    /// Connects to the QEMU that runs in this directory, which may be silent for so long.
    pub fn connect(directory: &Path, patience: Duration) -> Result<Self> {
        let opened = File::open(directory)
            .with_context(|| format!("cannot open {}", directory.display()))?;
        // A socket's path has room for 107 bytes, which the directory's own may exceed.
        let socket = format!("/proc/self/fd/{}/{SOCKET}", opened.as_raw_fd());
        let stream = UnixStream::connect(socket).context("cannot connect to QEMU's monitor")?;
        stream.set_read_timeout(Some(patience))?;
        Self::greet(stream)
    }
}

impl<Stream: Read + Write> Monitor<Stream> {
    fn greet(stream: Stream) -> Result<Self> {
        let mut monitor = Self { stream: BufReader::new(stream) };
        monitor.wait(|message| message.get("QMP").is_some())?;
        monitor.execute("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    /// Plugs a function in; `device` is the value of `-device`.
    pub fn plug(&mut self, device: &str) -> Result<()> {
        let mut arguments = serde_json::Map::new();
        for (number, property) in device.split(',').enumerate() {
            let (name, value) = match property.split_once('=') {
                Some(pair) => pair,
                None if number == 0 => ("driver", property),
                None => bail!("{device}: {property} has no value"),
            };
            // QEMU 11 takes no text for a number or a switch.
            let value = match value {
                "on" => true.into(),
                "off" => false.into(),
                text => text.parse::<u64>().map_or_else(|_| text.into(), Value::from),
            };
            arguments.insert(name.to_owned(), value);
        }
        self.execute("device_add", &arguments.into())
    }

    /// Takes a function out, and waits until it has gone; false if the guest does not let go of it.
    pub fn unplug(&mut self, id: &str) -> Result<bool> {
        self.execute("device_del", &json!({ "id": id }))?;
        let gone = self.wait(|message| {
            message["event"] == "DEVICE_DELETED" && message["data"]["device"] == *id
        });
        match gone {
            Err(error) if is_silence(&error) => Ok(false),
            gone => gone.map(|_| true),
        }
    }

    fn execute(&mut self, command: &str, arguments: &Value) -> Result<()> {
        let message = json!({ "execute": command, "arguments": arguments });
        writeln!(self.stream.get_mut(), "{message}").context("QEMU's monitor does not listen")?;
        let is_answer =
            |message: &Value| message.get("return").is_some() || message.get("error").is_some();
        let answer = self.wait(is_answer)?;
        match answer.get("error") {
            None => Ok(()),
            Some(error) => bail!("QEMU refuses {message}: {}", error["desc"]),
        }
    }

    /// Passes over all messages before the wanted one.
    fn wait(&mut self, is_wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        loop {
            let mut line = String::new();
            let count =
                self.stream.read_line(&mut line).context("QEMU's monitor does not answer")?;
            if count == 0 {
                bail!("QEMU closed its monitor");
            }
            let message = serde_json::from_str(&line)
                .with_context(|| format!("QEMU's monitor said something unknown: {line}"))?;
            if is_wanted(&message) {
                return Ok(message);
            }
        }
    }
}

/// Whether QEMU said nothing for as long as it may.
fn is_silence(error: &anyhow::Error) -> bool {
    let kind = error.downcast_ref().map(io::Error::kind);
    matches!(kind, Some(ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// QEMU's side of a conversation, written down beforehand.
    struct Script {
        says: Cursor<&'static str>,
        heard: Vec<u8>,
        /// Whether it is silent after that, instead of going away.
        stays: bool,
    }

    impl Read for Script {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.says.read(buffer)? {
                0 if self.stays => Err(ErrorKind::WouldBlock.into()),
                count => Ok(count),
            }
        }
    }

    impl Write for Script {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.heard.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn monitor(says: &'static str) -> Result<Monitor<Script>> {
        Monitor::greet(Script { says: Cursor::new(says), heard: Vec::new(), stays: false })
    }

    const GREETING: &str = "{\"QMP\": {}}\n{\"return\": {}}\n";

    #[test]
    fn a_function_is_plugged_and_unplugged_past_other_events() -> Result<()> {
        let mut monitor = monitor(
            "{\"QMP\": {}}\n{\"return\": {}}\n{\"event\": \"RESUME\"}\n{\"return\": {}}\n\
             {\"return\": {}}\n{\"event\": \"DEVICE_DELETED\", \"data\": {\"path\": \"x\"}}\n\
             {\"event\": \"DEVICE_DELETED\", \"data\": {\"device\": \"one\"}}\n",
        )?;
        monitor.plug("e1000e,id=one,addr=00.0,romfile=,msix_qsize=9,multifunction=on")?;
        assert!(monitor.unplug("one")?);
        let heard = String::from_utf8(monitor.stream.into_inner().heard)?;
        let heard: Vec<Value> =
            heard.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        assert_eq!(
            heard[1..],
            [
                json!({ "execute": "device_add", "arguments": {
                    "driver": "e1000e", "id": "one", "addr": "00.0", "romfile": "",
                    "msix_qsize": 9, "multifunction": true } }),
                json!({ "execute": "device_del", "arguments": { "id": "one" } }),
            ]
        );
        Ok(())
    }

    #[test]
    fn a_refusal_is_told_with_its_reason() -> Result<()> {
        let mut monitor = monitor(
            "{\"QMP\": {}}\n{\"return\": {}}\n{\"error\": {\"desc\": \"Bus 'x' not found\"}}\n",
        )?;
        let told = monitor.plug("VGA,bus=x").map_err(|error| error.to_string());
        let Err(told) = told else { bail!("the refusal was not seen") };
        assert!(told.ends_with("\"Bus 'x' not found\""), "{told}");
        Ok(())
    }

    #[test]
    fn a_function_that_does_not_go_is_told_apart_from_a_qemu_that_says_nothing() -> Result<()> {
        let silent = |says| {
            Monitor::greet(Script { says: Cursor::new(says), heard: Vec::new(), stays: true })
        };
        let accepts = "{\"QMP\": {}}\n{\"return\": {}}\n{\"return\": {}}\n";
        assert!(!silent(accepts)?.unplug("one")?);
        let told = silent(GREETING)?.unplug("one").map_err(|error| error.to_string());
        assert_eq!(told, Err("QEMU's monitor does not answer".to_owned()));
        Ok(())
    }

    #[test]
    fn an_end_of_the_conversation_is_told() -> Result<()> {
        let told = monitor(GREETING)?.unplug("one").map_err(|error| error.to_string());
        assert_eq!(told, Err("QEMU closed its monitor".to_owned()));
        assert!(monitor("nonsense\n").is_err());
        Ok(())
    }
}

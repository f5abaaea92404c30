// SPDX-License-Identifier: Apache-2.0
//! Descriptors beside bytes, over a unix socket (`SCM_RIGHTS`, unix(7)).
//!
//! The kernel keeps the two in step: descriptors come with the first byte of the call that sent them, and a call
//! that receives never goes past that byte into what was sent by another call with descriptors.
//! What is received is closed on exec, and closed here if it is more than was wanted.

use core::mem::MaybeUninit;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::vec::Vec;

use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Most descriptors of one call: a channel's memory and two doorbells.
pub const DESCRIPTORS_MAX: usize = 3;

/// Sends bytes, and descriptors with the first of them. Says how many bytes went: the descriptors are with
/// them if it is one at least, and must not be sent again with the rest.
pub fn send(socket: impl AsFd, bytes: &[IoSlice<'_>], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one message"));
    }
    Ok(sendmsg(socket, bytes, &mut control, SendFlags::NOSIGNAL)?)
}

/// Receives bytes into `buffer` and descriptors to the end of `descriptors`. 0 bytes: the other side is done.
pub fn receive(socket: impl AsFd, buffer: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    // The kernel closed those that there was no room for. Which ones were meant can't be told any more.
    if received.flags.contains(ReturnFlags::CTRUNC) {
        descriptors.clear();
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "more descriptors came than a message can have",
        ));
    }
    Ok(received.bytes)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::net::UnixStream;

    use rustix::fs::fstat;

    use super::*;

    fn files(count: usize) -> Vec<File> {
        (0..count).map(|_| File::open("/dev/null").unwrap()).collect()
    }

    #[test]
    fn descriptors_arrive_with_their_bytes() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let sent = files(2);
        let fds: Vec<_> = sent.iter().map(AsFd::as_fd).collect();
        assert_eq!(send(&ours, &[IoSlice::new(b"one"), IoSlice::new(b"two")], &fds).unwrap(), 6);
        assert_eq!(send(&ours, &[IoSlice::new(b"three")], &[]).unwrap(), 5);
        let (mut bytes, mut received) = ([0; 64], Vec::new());
        let mut length = receive(&theirs, &mut bytes[..1], &mut received).unwrap();
        assert_eq!((length, received.len()), (1, 2));
        while length < 11 {
            length += receive(&theirs, &mut bytes[length..], &mut received).unwrap();
        }
        assert_eq!((&bytes[..11], received.len()), (&b"onetwothree"[..], 2));
        for (sent, received) in sent.iter().zip(&received) {
            assert_eq!(fstat(sent).unwrap().st_rdev, fstat(received).unwrap().st_rdev);
            assert!(rustix::io::fcntl_getfd(received).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        }
        drop(ours);
        assert_eq!(receive(&theirs, &mut bytes, &mut received).unwrap(), 0);
    }

    #[test]
    fn too_many_are_refused_on_both_sides() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let many = files(DESCRIPTORS_MAX + 10);
        let fds: Vec<_> = many.iter().map(AsFd::as_fd).collect();
        assert!(send(&ours, &[IoSlice::new(b"x")], &fds).is_err());
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(64))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(&ours, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).unwrap();
        let mut received = Vec::new();
        assert!(receive(&theirs, &mut [0; 8], &mut received).is_err());
        assert!(received.is_empty());
    }
}

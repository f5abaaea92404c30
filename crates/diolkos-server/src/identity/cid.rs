// SPDX-License-Identifier: Apache-2.0
//! Context ids of virtual machines.

use diolkos_shm::vsock;
use serde::{Deserialize, Serialize};

/// The context id of one machine (CID, vsock(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Cid(u32);

/// A number means no machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} is the CID of no machine: virtual machines have 3 and up, their host is 2, and this machine itself is 1"
)]
pub struct NoCid(u32);

impl Cid {
    pub(crate) fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Cid {
    type Error = NoCid;

    /// 0 is the hypervisor, where no program is that could connect.
    fn try_from(cid: u32) -> Result<Cid, NoCid> {
        if cid == 0 || cid == vsock::ANY { Err(NoCid(cid)) } else { Ok(Cid(cid)) }
    }
}

impl From<Cid> for u32 {
    fn from(cid: Cid) -> u32 {
        cid.0
    }
}

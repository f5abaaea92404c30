// SPDX-License-Identifier: Apache-2.0
//! What C fills in.
//!
//! Structs that may grow begin with their size, and in all fields behind it zero means the default. So a program that
//! was compiled with an older header means the same as ever, and `{sizeof options}` means nothing but defaults.

use std::ffi::c_char;
use std::ptr;
use std::time::Duration;

use ::diolkos_client::Options;

use crate::errors::Failure;
use crate::handles::diolkos_tensor;
use crate::numbers;

/// Wait for ever.
pub const DIOLKOS_FOREVER: i64 = -1;

/// reconnect_ms: don't connect again.
pub const DIOLKOS_NO_RECONNECT: u32 = 0xffff_ffff;

/// What `diolkos_client::Options` takes at most.
const IN_FLIGHT_MAX: u32 = 512;

/// How a client connects. Set size to sizeof(diolkos_options) and the rest to 0; then set what is to differ.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct diolkos_options {
    /// sizeof(diolkos_options)
    pub size: usize,
    /// How it waits: a diolkos_waiting.
    pub waiting: i32,
    /// Where tensors lie: a diolkos_memory.
    pub memory: i32,
    /// Requests that may be under way at once: a power of two, at most 512. 0: 64.
    pub in_flight: u32,
    /// How long to try to connect again when the connection is lost, in milliseconds, before requests fail. 0: 5000.
    /// DIOLKOS_NO_RECONNECT: not at all.
    pub reconnect_ms: u32,
    /// Bytes of the first region of shared memory, whose pages are made at once; more are made as they are needed, each as
    /// large as all before it, but 64 MiB at most unless this or a tensor is larger. 0: 1 MiB.
    pub region_bytes: u64,
    /// Name of this client in the daemon's log. NULL: the executable's.
    pub name: *const c_char,
    /// The tenant that this client speaks for, if it is a bridge. NULL: what DIOLKOS_TENANT says in the environment, else
    /// itself.
    pub tenant: *const c_char,
    /// Not 0: the kernel is not asked to put pages of shared memory together into huge ones.
    pub no_huge_pages: i32,
}

impl diolkos_options {
    pub(crate) const DEFAULTS: diolkos_options = diolkos_options {
        size: size_of::<diolkos_options>(),
        waiting: 0,
        memory: 0,
        in_flight: 0,
        reconnect_ms: 0,
        region_bytes: 0,
        name: ptr::null(),
        tenant: ptr::null(),
        no_huge_pages: 0,
    };

    /// The options, with what `name` and `tenant` point to.
    pub(crate) fn options(&self, name: Option<&str>, tenant: Option<&str>) -> Result<Options, Failure> {
        let mut options = Options {
            waiting: numbers::waiting(self.waiting)?,
            memory: numbers::memory(self.memory)?,
            huge_pages: self.no_huge_pages == 0,
            ..Options::default()
        };
        match self.in_flight {
            0 => {}
            number if number.is_power_of_two() && number <= IN_FLIGHT_MAX => options.in_flight = number,
            number => {
                return Err(Failure::argument(format!(
                    "`options.in_flight` is {number}, and must be a power of two, at most {IN_FLIGHT_MAX}"
                )));
            }
        }
        match self.reconnect_ms {
            0 => {}
            DIOLKOS_NO_RECONNECT => options.reconnect = Duration::ZERO,
            millis => options.reconnect = Duration::from_millis(millis.into()),
        }
        if self.region_bytes > 0 {
            options.region_bytes = usize::try_from(self.region_bytes)
                .map_err(|_| Failure::argument("`options.region_bytes` is more than there are addresses"))?;
        }
        if let Some(name) = name {
            options.name = name.to_owned();
        }
        if let Some(tenant) = tenant {
            options.tenant = tenant.to_owned();
        }
        Ok(options)
    }
}

/// What a request can say besides its inputs. Set size to sizeof(diolkos_request) and the rest to 0; then set what is
/// to differ. What it points to is copied.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct diolkos_request {
    /// sizeof(diolkos_request)
    pub size: usize,
    /// Which of one's own requests go first: a diolkos_class. (`class` is a word of C++.)
    pub klass: i32,
    /// Not 0: running it twice is not the same as running it once, so it is not sent again when the connection is lost.
    pub once: i32,
    /// A request that has not begun after so many microseconds never runs. 0: no limit.
    pub timeout_us: u64,
    /// Names of the wanted outputs, in the wanted order.
    pub outputs: *const *const c_char,
    /// How many there are. 0: all outputs of the model, in its order.
    pub outputs_count: usize,
    /// Parameters for the operation.
    pub params: *const diolkos_param,
    /// How many there are.
    pub params_count: usize,
}

impl diolkos_request {
    pub(crate) const DEFAULTS: diolkos_request = diolkos_request {
        size: size_of::<diolkos_request>(),
        klass: 0,
        once: 0,
        timeout_us: 0,
        outputs: ptr::null(),
        outputs_count: 0,
        params: ptr::null(),
        params_count: 0,
    };
}

/// The value of a parameter.
#[repr(C)]
#[derive(Clone, Copy)]
pub union diolkos_param_value {
    /// DIOLKOS_PARAM_BOOL: 0 is false, everything else is true.
    pub flag: i32,
    /// DIOLKOS_PARAM_INT
    pub integer: i64,
    /// DIOLKOS_PARAM_UINT
    pub natural: u64,
    /// DIOLKOS_PARAM_DOUBLE
    pub number: f64,
    /// DIOLKOS_PARAM_TEXT: UTF-8.
    pub text: *const c_char,
}

/// A parameter of a request.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct diolkos_param {
    /// Its name.
    pub name: *const c_char,
    /// Which member of value counts: a diolkos_param_type.
    pub kind: i32,
    /// Its value.
    pub value: diolkos_param_value,
}

/// An input of a request.
#[repr(C)]
pub struct diolkos_input {
    /// Its name in the model.
    pub name: *const c_char,
    /// Its value. Once the request is sent, it belongs to that, and NULL stands here.
    pub tensor: *mut diolkos_tensor,
}

#[cfg(test)]
mod tests {
    use ::diolkos_client::{Memory, Waiting};

    use super::*;

    #[test]
    fn zero_means_the_default() {
        let (ours, theirs) = (diolkos_options::DEFAULTS.options(None, None).unwrap(), Options::default());
        assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));
    }

    #[test]
    fn what_is_set_is_passed_on() {
        let set = diolkos_options {
            waiting: 2,
            memory: 1,
            in_flight: 8,
            reconnect_ms: DIOLKOS_NO_RECONNECT,
            region_bytes: 4096,
            no_huge_pages: 1,
            ..diolkos_options::DEFAULTS
        };
        let options = set.options(Some("me"), Some("web")).unwrap();
        assert_eq!((options.waiting, options.memory), (Waiting::Polling, Memory::Private));
        assert_eq!((options.in_flight, options.reconnect), (8, Duration::ZERO));
        assert_eq!((options.region_bytes, options.name.as_str()), (4096, "me"));
        assert_eq!((options.tenant.as_str(), options.huge_pages), ("web", false));
        assert!(diolkos_options { waiting: 3, ..set }.options(None, None).is_err());
        assert!(diolkos_options { memory: -1, ..set }.options(None, None).is_err());
        let later = diolkos_options { reconnect_ms: 7, ..set }.options(None, None).unwrap();
        assert_eq!(later.reconnect, Duration::from_millis(7));
    }
}

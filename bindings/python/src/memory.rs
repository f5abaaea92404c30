// SPDX-License-Identifier: Apache-2.0
//! Bytes for arrays.
//!
//! NumPy looks at them through the buffer protocol and keeps the [`Memory`] alive as the array's base. Python writes
//! tensors that are to be sent through that pointer, so here they are only ever read by system calls and by the daemon.
//!
//! ```text
//!             lend                        lend
//!   free ───────────────> lent (1) ───────────────> lent (2) …
//!   writable <─────────── nobody gets a writable view
//!             give_back
//! ```

use std::ffi::c_int;
use std::sync::{Mutex, MutexGuard, PoisonError};

use diolkos_client::types::BytesElements;
use diolkos_client::{AnyTensor, Output, SharedTensor};
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use crate::errors;
use crate::process::Own;

/// The bytes of a tensor, in a region that the daemon shares or in this process's own memory.
#[pyclass(frozen, module = "diolkos._native")]
pub(crate) struct Memory {
    tensor: Own<SharedTensor>,
    /// Where the bytes are. They stay there for as long as `tensor` lives.
    address: usize,
    /// Which client's they are; 0 for outputs of none.
    #[pyo3(get)]
    client: u64,
    #[pyo3(get)]
    writable: bool,
    loans: Mutex<Loans>,
}

#[derive(Default)]
struct Loans {
    /// Requests under way that have it.
    count: usize,
    /// Whether the array was writable before the first of them.
    writable: bool,
}

impl Memory {
    /// Memory to be filled by arrays.
    pub(crate) fn to_fill(mut tensor: AnyTensor, client: u64) -> Memory {
        // From a borrow that may write, because arrays will.
        let address = tensor.bytes_mut().as_mut_ptr().expose_provenance();
        Memory::new(tensor.share(), address, client, true)
    }

    /// Memory with an output.
    pub(crate) fn of_output(output: &Output, client: u64) -> Memory {
        let address = output.bytes().as_ptr().expose_provenance();
        Memory::new(output.share(), address, client, false)
    }

    fn new(tensor: SharedTensor, address: usize, client: u64, writable: bool) -> Memory {
        Memory { tensor: Own::new(tensor), address, client, writable, loans: Mutex::default() }
    }

    /// The tensor, for a request.
    pub(crate) fn tensor(&self) -> PyResult<&SharedTensor> {
        self.tensor.get()
    }

    fn loans(&self) -> MutexGuard<'_, Loans> {
        // Nothing below panics while it holds the lock.
        self.loans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Memory {
    /// Name of its data type, such as `FP32`.
    #[getter]
    fn data_type(&self) -> PyResult<&'static str> {
        Ok(self.tensor()?.data_type().name())
    }

    /// Its dimensions.
    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.tensor()?.shape())
    }

    /// Where the bytes are in this process.
    #[getter]
    fn address(&self) -> usize {
        self.address
    }

    /// How many bytes there are.
    #[getter]
    fn nbytes(&self) -> PyResult<usize> {
        Ok(self.tensor()?.bytes().len())
    }

    /// A request gets it. `writable`: the array on it is, and is to be again afterwards.
    fn lend(&self, writable: bool) {
        let mut loans = self.loans();
        if loans.count == 0 {
            loans.writable = writable;
        }
        loans.count += 1;
    }

    /// A request that had it has ended. Says whether the array is to be made writable again.
    fn give_back(&self) -> bool {
        let mut loans = self.loans();
        loans.count = loans.count.saturating_sub(1);
        loans.count == 0 && loans.writable
    }

    /// The elements of a `BYTES` tensor.
    fn strings<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        let elements = BytesElements::new(self.tensor()?.bytes());
        let strings = elements.map(|element| match element {
            Ok(element) => Ok(PyBytes::new(py, element)),
            Err(error) => Err(errors::invalid(&error.to_string())),
        });
        strings.collect()
    }

    /// # Safety
    ///
    /// Called by Python only, which gives a `view` that can be written.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let memory = slf.get();
        let may_write = memory.writable && memory.loans().count == 0;
        let wants_to_write = flags & ffi::PyBUF_WRITABLE == ffi::PyBUF_WRITABLE;
        if wants_to_write && !may_write {
            let why = if memory.writable { "is lent to a request" } else { "is the daemon's reply" };
            return Err(PyBufferError::new_err(format!("this memory {why}: it can only be read")));
        }
        let length = ffi::Py_ssize_t::try_from(memory.nbytes()?)
            .map_err(|error| errors::invalid(&error.to_string()))?;
        let bytes = std::ptr::with_exposed_provenance_mut(memory.address);
        let readonly = c_int::from(!may_write);
        // SAFETY: `view` is Python's. `bytes` are `length` bytes that stay where they are while `slf` lives (`tensor` does,
        // and gives them to nobody else), and the view holds `slf`. Whoever gets a writable view got the memory from
        // `to_fill`, whose pointer may write.
        let filled = unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), bytes, length, readonly, flags) };
        if filled == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}

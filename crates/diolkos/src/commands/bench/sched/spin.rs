// SPDX-License-Identifier: Apache-2.0
//! An operation that computes for as long as its input says. Nothing about the request but that number tells how long it
//! will take, so it is what somebody would send who wants long jobs to look like short ones.

use std::hint::black_box;
use std::time::Duration;

use diolkos_backend::{Buffer, Operation, RunError, Tensor, Work};
use diolkos_engine::NamedTensor;
use diolkos_types::{DataType, Dim, Shape, Signature, TensorSpec};
use rustix::time::{ClockId, clock_gettime};

/// Its name.
pub(super) const NAME: &str = "spin";

/// FP64 `seconds` [1] to the same.
pub(super) struct Spin(Signature);

impl Spin {
    pub(super) fn new() -> Spin {
        let spec = |name| TensorSpec::new(name, DataType::Fp64, &[Dim::Fixed(1)]);
        Spin(Signature { inputs: [spec("seconds")].into(), outputs: [spec("took")].into() })
    }
}

/// Its input.
pub(super) fn input(time: Duration) -> NamedTensor {
    let data = Buffer::from(time.as_secs_f64().to_le_bytes().to_vec());
    let shape = Shape::new(&[1]).expect("it is short");
    NamedTensor { name: "seconds".into(), tensor: Tensor { data_type: DataType::Fp64, shape, data } }
}

/// Time that this thread had on a CPU: somebody else's turn there is not part of the job.
fn on_cpu() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

impl Operation for Spin {
    fn signature(&self) -> &Signature {
        &self.0
    }

    fn resident_bytes(&self) -> u64 {
        0
    }

    fn peak_bytes(&self, _: &[Option<Shape>], input_bytes: u64) -> Option<u64> {
        Some(2 * input_bytes)
    }

    fn run(&self, work: &mut Work) -> Result<(), RunError> {
        let wrong = || RunError::InvalidInput { tensor: "seconds".into(), reason: "is no time".into() };
        let input = work.take_input(0).ok_or_else(wrong)?;
        let bytes = <[u8; 8]>::try_from(&input.data.to_private()[..]).map_err(|_| wrong())?;
        let time = Duration::try_from_secs_f64(f64::from_le_bytes(bytes)).map_err(|_| wrong())?;
        let until = on_cpu() + time;
        while on_cpu() < until {
            (0..500).for_each(|number| _ = black_box(number));
            work.check_cancelled()?;
        }
        work.output(&self.0, 0, input.data_type, input.shape, bytes.len())?.give(input.data);
        Ok(())
    }
}

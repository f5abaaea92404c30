// SPDX-License-Identifier: Apache-2.0
//! A client by the native channel, with the library that programs in sandboxes have: tensors lie in shared memory where
//! the transport allows it, and are sent again and again.

use bytes::Bytes;
use diolkos_client::{AnyTensor, Client, Error, Model, Options, Pending, Reply};

use super::caller::{CALL_TIME_MAX, CallBlocking, Outcome, Question, check_echo};
use crate::client::Address;
use crate::exit::{Exit, Failure};
use crate::tensor::Value;

/// See the module.
pub(crate) struct NativeCaller {
    client: Client,
    model: Model,
    values: Vec<Value>,
    /// Of the last call, in the order of the values; `None` after one that failed.
    inputs: Option<Vec<AnyTensor>>,
    /// Length of a good answer's first output.
    answer_bytes: Option<usize>,
}

impl NativeCaller {
    /// Connects, and opens the model.
    pub(crate) fn open(address: &Address, question: &Question) -> Result<NativeCaller, Failure> {
        let client = Client::connect_with(&address.to_string(), Options::default()).map_err(failed)?;
        NativeCaller::on(client, question)
    }

    /// Opens the model on a connection of its own.
    pub(crate) fn on(client: Client, question: &Question) -> Result<NativeCaller, Failure> {
        let model = client.open(&question.model).map_err(failed)?;
        let echoed = question.inputs.first().filter(|_| question.echoes).map(|input| input.data.len());
        Ok(NativeCaller {
            client,
            model,
            values: question.inputs.clone(),
            inputs: None,
            answer_bytes: echoed,
        })
    }

    fn tensor(&self, value: &Value) -> Result<AnyTensor, Error> {
        let mut tensor = self.client.tensor_of(value.data_type, value.shape.dims(), value.data.len())?;
        tensor.bytes_mut().copy_from_slice(&value.data);
        Ok(tensor)
    }

    fn send(&mut self) -> Result<Pending, Error> {
        let inputs = match self.inputs.take() {
            Some(inputs) => inputs,
            None => self.values.iter().map(|value| self.tensor(value)).collect::<Result<_, Error>>()?,
        };
        let names = self.values.iter().map(|value| value.name.as_str());
        self.model.submit(names.zip(inputs))
    }

    fn take(&mut self, reply: Result<Reply, Error>) -> Result<Option<usize>, Error> {
        let reply = reply?;
        let first = reply.outputs().first().map(|output| output.bytes().len());
        self.inputs = Some(reply.into_inputs());
        Ok(first)
    }

    fn outcome(&mut self, reply: Result<Reply, Error>) -> Outcome {
        match self.take(reply) {
            Ok(first) if self.answer_bytes.is_some() && first != self.answer_bytes => {
                Outcome::failed("short answer")
            }
            Ok(_) => Outcome::Ok,
            Err(error) => Outcome::Failed(kind(&error).into()),
        }
    }

    /// One call that waits as long as it takes.
    pub(crate) fn call_patiently(&mut self) -> Result<(), Failure> {
        let reply = self.send().and_then(Pending::wait);
        self.take(reply).map(drop).map_err(failed)
    }

    /// One call from an async task.
    pub(crate) async fn call(&mut self) -> Outcome {
        let reply = match self.send() {
            Ok(pending) => pending.await,
            Err(error) => Err(error),
        };
        self.outcome(reply)
    }
}

impl CallBlocking for NativeCaller {
    fn call_blocking(&mut self) -> Outcome {
        let reply = self.send().and_then(|pending| pending.wait_for(CALL_TIME_MAX));
        self.outcome(reply)
    }

    fn checked_call(&mut self, question: &Question) -> Result<(), String> {
        let reply = self.send().and_then(|pending| pending.wait_for(CALL_TIME_MAX));
        let reply = reply.map_err(|error| error.to_string())?;
        let first = reply.outputs().first().map(|output| Bytes::copy_from_slice(output.bytes()));
        self.inputs = Some(reply.into_inputs());
        check_echo(question, first.as_deref().unwrap_or(&[]))
    }
}

/// One word for the list of errors.
fn kind(error: &Error) -> &'static str {
    match error {
        Error::Refused(status) => status.code().name(),
        Error::Timeout => "timeout",
        Error::Lost { .. } | Error::Connect { .. } => "connection lost",
        Error::Memory { .. } => "no memory",
        Error::Changed { .. } => "model replaced",
        _ => "not sent",
    }
}

/// What an error of the client means for the person at the terminal.
pub(crate) fn failed(error: Error) -> Failure {
    let exit = if matches!(error, Error::Connect { .. }) { Exit::NoDaemon } else { Exit::Failed };
    Failure::new(exit, error.to_string())
}

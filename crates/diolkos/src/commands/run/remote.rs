// SPDX-License-Identifier: Apache-2.0
//! A model at a daemon.

use std::collections::BTreeMap;

use tokio::runtime::Runtime;

use super::Target;
use crate::cli::RunArgs;
use crate::client::{Client, ClientError, InferReply, ModelMetadata};
use crate::commands::{connect, of_client, runtime};
use crate::exit::Failure;
use crate::input::Wanted;
use crate::tensor::Value;

/// A connection, and what the daemon says of the model.
pub(super) struct Remote {
    runtime: Runtime,
    client: Client,
    model: String,
    version: Option<String>,
    wanted: Vec<Wanted>,
    labels: BTreeMap<String, Vec<String>>,
}

/// Connects and asks what the model takes.
pub(super) fn open(args: &RunArgs) -> Result<Remote, Failure> {
    let runtime = runtime()?;
    let version = args.model_version.map(|version| version.to_string());
    let (client, metadata, labels) = runtime.block_on(async {
        let mut client = connect(&args.daemon).await?;
        let metadata = client.metadata(&args.model, version.as_deref()).await.map_err(of_client)?;
        let details = client.details(&args.model, version.as_deref()).await.map_err(of_client)?;
        Ok::<_, Failure>((client, metadata, details.map(|details| details.labels).unwrap_or_default()))
    })?;
    let wanted = wanted(&metadata)
        .map_err(|reason| of_client(ClientError::Protocol { address: client.address().clone(), reason }))?;
    Ok(Remote { runtime, client, model: args.model.clone(), version, wanted, labels })
}

fn wanted(metadata: &ModelMetadata) -> Result<Vec<Wanted>, String> {
    let one = |tensor: &crate::client::TensorMetadata| {
        let data_type =
            tensor.datatype.parse().map_err(|error| format!("the input `{}`: {error}", tensor.name))?;
        Ok(Wanted { name: tensor.name.clone(), data_type, dims: tensor.shape.clone() })
    };
    metadata.inputs.iter().map(one).collect()
}

impl Target for Remote {
    fn wanted(&self) -> &[Wanted] {
        &self.wanted
    }

    fn labels(&self) -> &BTreeMap<String, Vec<String>> {
        &self.labels
    }

    fn infer(&mut self, inputs: &[Value], outputs: &[String]) -> Result<InferReply, Failure> {
        let infer = self.client.infer(&self.model, self.version.as_deref(), inputs, outputs);
        self.runtime.block_on(infer).map_err(of_client)
    }
}

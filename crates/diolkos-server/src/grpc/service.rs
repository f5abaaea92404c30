// SPDX-License-Identifier: Apache-2.0
//! The calls of `inference.GRPCInferenceService`, each as thin as its message.

use std::sync::Arc;

use axum::http::HeaderMap;
use tokio::sync::watch;
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Response, Status};

use super::deadline::CallDeadline;
use super::pb::grpc_inference_service_server::GrpcInferenceService;
use super::pb::{
    CudaSharedMemoryStatusRequest, CudaSharedMemoryStatusResponse, CudaSharedMemoryUnregisterRequest,
    CudaSharedMemoryUnregisterResponse, ModelConfigRequest, ModelConfigResponse, ModelInferRequest,
    ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse, ModelReadyRequest, ModelReadyResponse,
    ModelStatisticsRequest, ModelStatisticsResponse, RepositoryIndexRequest, RepositoryIndexResponse,
    RepositoryModelLoadRequest, RepositoryModelLoadResponse, RepositoryModelUnloadRequest,
    RepositoryModelUnloadResponse, ServerLiveRequest, ServerLiveResponse, ServerMetadataRequest,
    ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse, SystemSharedMemoryRegisterRequest,
    SystemSharedMemoryRegisterResponse, SystemSharedMemoryStatusRequest, SystemSharedMemoryStatusResponse,
    SystemSharedMemoryUnregisterRequest, SystemSharedMemoryUnregisterResponse,
};
use super::stream::{InferStream, infer_one};
use super::{admin, error, response};
use crate::app::App;
use crate::listen::Stop;
use crate::oip::extensions::{extensions, no_such_cuda_region};
use crate::oip::{metadata, parse_version, repository, schedule, statistics};
use crate::sessions::{ClientSession, ConnectionContext};

/// Answers every call; shared by all connections.
pub(crate) struct InferenceService {
    app: Arc<App>,
    stop: watch::Receiver<Stop>,
}

impl InferenceService {
    pub(crate) fn new(app: Arc<App>, stop: watch::Receiver<Stop>) -> InferenceService {
        InferenceService { app, stop }
    }
}

type Answer<T> = Result<Response<T>, Status>;

fn session_of<T>(request: &Request<T>) -> Result<Arc<ClientSession>, Status> {
    let context = request.extensions().get::<ConnectionContext>();
    context
        .map(|context| context.session.clone())
        .ok_or_else(|| Status::internal("the connection has no session"))
}

fn deadline_of<T>(request: &Request<T>) -> Option<CallDeadline> {
    request.extensions().get().copied()
}

fn version_of(text: &str) -> Result<Option<u64>, Status> {
    parse_version(text).map_err(|status| error::of_status(&status))
}

/// Of a region; no name stands for all of them.
fn named(name: &str) -> Option<&str> {
    Some(name).filter(|name| !name.is_empty())
}

fn answer<T, M>(result: Result<T, diolkos_types::Status>, to_message: impl FnOnce(T) -> M) -> Answer<M> {
    match result {
        Ok(value) => Ok(Response::new(to_message(value))),
        Err(status) => Err(error::of_status(&status)),
    }
}

#[tonic::async_trait]
impl GrpcInferenceService for InferenceService {
    async fn server_live(&self, _: Request<ServerLiveRequest>) -> Answer<ServerLiveResponse> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(&self, _: Request<ServerReadyRequest>) -> Answer<ServerReadyResponse> {
        Ok(Response::new(ServerReadyResponse { ready: self.app.is_ready() }))
    }

    async fn model_ready(&self, request: Request<ModelReadyRequest>) -> Answer<ModelReadyResponse> {
        let session = session_of(&request)?;
        let ModelReadyRequest { name, version } = request.into_inner();
        let version = version_of(&version)?;
        let ready = match metadata::is_ready(&session, &name, version) {
            // Whoever waits for a model to appear asks for one that is not there yet.
            Err(status) if status.code() == diolkos_types::Code::NotFound => Ok(false),
            ready => ready,
        };
        answer(ready, |ready| ModelReadyResponse { ready })
    }

    async fn server_metadata(
        &self,
        request: Request<ServerMetadataRequest>,
    ) -> Answer<ServerMetadataResponse> {
        let session = session_of(&request)?;
        Ok(Response::new(admin::server_metadata(extensions(&session))))
    }

    async fn model_metadata(&self, request: Request<ModelMetadataRequest>) -> Answer<ModelMetadataResponse> {
        let session = session_of(&request)?;
        let ModelMetadataRequest { name, version } = request.into_inner();
        let version = version_of(&version)?;
        answer(metadata::model_metadata(&session, &name, version).await, admin::metadata)
    }

    async fn model_infer(&self, request: Request<ModelInferRequest>) -> Answer<ModelInferResponse> {
        let session = session_of(&request)?;
        let deadline = deadline_of(&request);
        let explain = schedule::is_wanted(request.metadata().as_ref());
        let reply = infer_one(&session, request.into_inner(), deadline).await;
        let reply = reply.map_err(|failed| error::of_failed(&failed, explain))?;
        let told = reply.told;
        let mut headers = HeaderMap::new();
        if explain {
            headers.insert(schedule::SCHEDULE, schedule::value(&told));
        }
        let metadata = MetadataMap::from_headers(headers);
        Ok(Response::from_parts(metadata, response::to_response(reply), Extensions::new()))
    }

    type ModelStreamInferStream = InferStream;

    async fn model_stream_infer(
        &self,
        request: Request<tonic::Streaming<ModelInferRequest>>,
    ) -> Answer<InferStream> {
        let session = session_of(&request)?;
        let deadline = deadline_of(&request);
        Ok(Response::new(InferStream::new(session, request.into_inner(), deadline, self.stop.clone())))
    }

    async fn model_config(&self, request: Request<ModelConfigRequest>) -> Answer<ModelConfigResponse> {
        let session = session_of(&request)?;
        let ModelConfigRequest { name, version } = request.into_inner();
        let version = version_of(&version)?;
        let config = metadata::model_config(&session, &name, version).await;
        answer(config, |config| ModelConfigResponse { config: Some(admin::config(config)) })
    }

    async fn model_statistics(
        &self,
        request: Request<ModelStatisticsRequest>,
    ) -> Answer<ModelStatisticsResponse> {
        let session = session_of(&request)?;
        let ModelStatisticsRequest { name, version } = request.into_inner();
        let version = version_of(&version)?;
        let name = Some(&*name).filter(|name| !name.is_empty());
        let stats = statistics::statistics(&self.app, &session, name, version);
        answer(stats, |stats| ModelStatisticsResponse {
            model_stats: stats.into_iter().map(admin::statistics).collect(),
        })
    }

    async fn repository_index(
        &self,
        request: Request<RepositoryIndexRequest>,
    ) -> Answer<RepositoryIndexResponse> {
        let session = session_of(&request)?;
        let rows = repository::index(&session, request.get_ref().ready);
        Ok(Response::new(admin::index(rows)))
    }

    async fn repository_model_load(
        &self,
        request: Request<RepositoryModelLoadRequest>,
    ) -> Answer<RepositoryModelLoadResponse> {
        let session = session_of(&request)?;
        let call = admin::load_call(request.into_inner()).map_err(|status| error::of_status(&status))?;
        let loaded = repository::load(&self.app, &session, call).await;
        answer(loaded, |()| RepositoryModelLoadResponse {})
    }

    async fn repository_model_unload(
        &self,
        request: Request<RepositoryModelUnloadRequest>,
    ) -> Answer<RepositoryModelUnloadResponse> {
        // The one parameter there is, `unload_dependents`, has no meaning: no model depends on another.
        let session = session_of(&request)?;
        let unloaded = repository::unload(&self.app, &session, &request.get_ref().model_name).await;
        answer(unloaded, |()| RepositoryModelUnloadResponse {})
    }

    async fn system_shared_memory_status(
        &self,
        request: Request<SystemSharedMemoryStatusRequest>,
    ) -> Answer<SystemSharedMemoryStatusResponse> {
        let session = session_of(&request)?;
        let name = request.into_inner().name;
        answer(session.memory.list(named(&name)).await, admin::regions)
    }

    async fn system_shared_memory_register(
        &self,
        request: Request<SystemSharedMemoryRegisterRequest>,
    ) -> Answer<SystemSharedMemoryRegisterResponse> {
        let session = session_of(&request)?;
        let wanted = admin::registration(request.into_inner());
        answer(session.memory.register(wanted).await, |()| SystemSharedMemoryRegisterResponse {})
    }

    async fn system_shared_memory_unregister(
        &self,
        request: Request<SystemSharedMemoryUnregisterRequest>,
    ) -> Answer<SystemSharedMemoryUnregisterResponse> {
        let session = session_of(&request)?;
        let name = request.into_inner().name;
        let unregistered = session.memory.unregister(named(&name)).await;
        answer(unregistered, |()| SystemSharedMemoryUnregisterResponse {})
    }

    async fn cuda_shared_memory_status(
        &self,
        request: Request<CudaSharedMemoryStatusRequest>,
    ) -> Answer<CudaSharedMemoryStatusResponse> {
        let listed = match named(&request.get_ref().name) {
            Some(name) => Err(no_such_cuda_region(name)),
            None => Ok(()),
        };
        answer(listed, |()| CudaSharedMemoryStatusResponse::default())
    }

    /// Stock clients call it before they begin, and there is nothing that would be left.
    async fn cuda_shared_memory_unregister(
        &self,
        _: Request<CudaSharedMemoryUnregisterRequest>,
    ) -> Answer<CudaSharedMemoryUnregisterResponse> {
        Ok(Response::new(CudaSharedMemoryUnregisterResponse {}))
    }
}

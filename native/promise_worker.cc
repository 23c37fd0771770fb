#include "promise_worker.h"

#include <utility>

#include "error.h"

namespace tsvm {

namespace {

class PromiseWorker : public Napi::AsyncWorker {
 public:
  PromiseWorker(Napi::Env env, const char* syscall, const char* request, std::function<int(double*)> work)
      : AsyncWorker(env), deferred_(env), syscall_(syscall), request_(request), work_(std::move(work)) {}

  Napi::Promise promise() const { return deferred_.Promise(); }

  void Execute() override { error_ = work_(&result_); }

  void OnOK() override {
    if (error_ == 0) {
      deferred_.Resolve(Napi::Number::New(Env(), result_));
      return;
    }
    try {
      ThrowErrno(Env(), error_, syscall_, request_);
    } catch (const Napi::Error& error) {
      deferred_.Reject(error.Value());
    }
  }

  // Something was thrown: there is no memory, say.
  void OnError(const Napi::Error& error) override { deferred_.Reject(error.Value()); }

 private:
  Napi::Promise::Deferred deferred_;
  const char* syscall_;
  const char* request_;
  std::function<int(double*)> work_;
  double result_ = 0;
  int error_ = 0;
};

}  // namespace

Napi::Promise RunOnThread(Napi::Env env, const char* syscall, const char* request, std::function<int(double*)> work) {
  // It deletes itself.
  auto* worker = new PromiseWorker(env, syscall, request, std::move(work));
  const Napi::Promise promise = worker->promise();
  worker->Queue();
  return promise;
}

}  // namespace tsvm

// Notes how long every operator of a run took: those of XNNPACK's graphs, ours, and the runtime's own kernels.
#pragma once

#include <executorch/runtime/core/event_tracer.h>
#include <executorch/runtime/platform/platform.h>

#include <chrono>
#include <cstring>
#include <string>
#include <vector>

#include "../runtime.h"

class Tracer : public executorch::runtime::EventTracer {
  using Entry = executorch::runtime::EventTracerEntry;
  using DebugId = executorch::runtime::DelegateDebugIntId;
  using Ticks = et_timestamp_t;
  template <class T>
  using Result = executorch::runtime::Result<T>;
  using Tensor = executorch::aten::Tensor;

 public:
  Tracer(std::vector<Event> *events, Profile profile) : events_(events), profile_(profile) {
    set_event_tracer_profiling_level(executorch::runtime::EventTracerProfilingLevel::kProfileAllEvents);
  }

  Entry start_profiling(const char *name, executorch::runtime::ChainID, executorch::runtime::DebugHandle) override {
    open_.emplace_back(name ? name : "");
    return {int64_t(open_.size()) - 1, 0, 0, now(), executorch::runtime::DelegateDebugIdType::kNone};
  }

  // The runtime's events of whole methods and delegates hold those of operators; they are left out.
  void end_profiling(Entry entry) override {
    const std::string &name = open_[entry.event_id];
    const bool native = name.rfind("native_call_", 0) == 0;
    const bool ours = name.rfind("codebook_", 0) == 0 || name == "recurrence";
    if (native || ours) events_->push_back({native ? name.substr(12) : name, entry.start_time, now()});
  }

  Entry start_profiling_delegate(const char *name, DebugId) override { return start_profiling(name, -1, 0); }

  void end_profiling_delegate(Entry entry, const void *, size_t) override {
    events_->push_back({open_[entry.event_id], entry.start_time, now()});
  }

  // XNNPACK tells of a graph's operators when all are done, by the runtime's clock, which began later than ours. It
  // reads the clock once before the first of them, after the runtime has noted the start.
  void log_profiling_delegate(const char *name, DebugId, Ticks start, Ticks end, const void *, size_t) override {
    const Ticks shift = offset_ + (profile_ == Profile::kReadings ? kReading : 0);
    events_->push_back({name ? name : "", start + shift, end + shift});
  }

  void create_event_block(const char *) override {
    open_.clear();
    offset_ = now() + (profile_ == Profile::kReadings ? kReading : 0);  // one reading before the runtime's
    offset_ -= et_pal_current_ticks();
  }

  void track_allocation(executorch::runtime::AllocatorID, size_t) override {}
  executorch::runtime::AllocatorID track_allocator(const char *) override { return 0; }
  Result<bool> log_evalue(const executorch::runtime::EValue &, executorch::runtime::LoggedEValueType) override {
    return false;
  }
  Result<bool> log_intermediate_output_delegate(const char *, DebugId, const Tensor &) override { return false; }
  Result<bool> log_intermediate_output_delegate(const char *, DebugId,
                                                const executorch::runtime::ArrayRef<Tensor>) override {
    return false;
  }
  Result<bool> log_intermediate_output_delegate(const char *, DebugId, const int &) override { return false; }
  Result<bool> log_intermediate_output_delegate(const char *, DebugId, const bool &) override { return false; }
  Result<bool> log_intermediate_output_delegate(const char *, DebugId, const double &) override { return false; }
  void set_delegation_intermediate_output_filter(executorch::runtime::EventTracerFilterBase *) override {}

 private:
  static Ticks now() {
    return Ticks(std::chrono::duration_cast<std::chrono::nanoseconds>(
                     std::chrono::steady_clock::now().time_since_epoch())
                     .count());
  }

  static constexpr Ticks kReading = 1000;  // bench.cc's clock goes on by a microsecond, XNNPACK's unit

  std::vector<Event> *events_;
  const Profile profile_;
  Ticks offset_ = 0;
  std::vector<std::string> open_;
};

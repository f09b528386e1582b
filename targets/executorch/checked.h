// Registers an op so that the kinds of its arguments are checked before they are taken for what the op's schema says: a
// program may be damaged, and what the runtime's own wrapper does with an argument of another kind is to abort.
#pragma once

#include <executorch/extension/kernel_util/make_boxed_from_unboxed_functor.h>

namespace edgecomp {

using executorch::aten::ArrayRef;
using executorch::aten::Tensor;
using executorch::runtime::EValue;

// Whether a value can be had as what a parameter of an op is.
template <class T>
bool is_kind(EValue &);
template <>
inline bool is_kind<Tensor &>(EValue &value) { return value.isTensor(); }
template <>
inline bool is_kind<const Tensor &>(EValue &value) { return value.isTensor(); }
template <>
inline bool is_kind<std::optional<Tensor>>(EValue &value) { return value.isNone() || value.isTensor(); }
template <>
inline bool is_kind<int64_t>(EValue &value) { return value.isInt(); }
template <>
inline bool is_kind<bool>(EValue &value) { return value.isBool(); }
template <>
inline bool is_kind<ArrayRef<int64_t>>(EValue &value) { return value.tryToIntList().ok(); }
template <>
inline bool is_kind<ArrayRef<Tensor>>(EValue &value) { return value.tryToTensorList().ok(); }

// A program repeats the output behind the arguments, as what the op returns.
template <class... T>
bool are_kinds(executorch::runtime::Span<EValue *> values, executorch::extension::kernel_util_internal::typelist<T...> *) {
  size_t i = 0;
  return values.size() >= sizeof...(T) && (is_kind<T>(*values[i++]) && ...);
}

// The op as the runtime calls it. `Function`: what EXECUTORCH_FN makes of one.
template <class Function>
void call_checked(executorch::runtime::KernelRuntimeContext &context, executorch::runtime::Span<EValue *> values) {
  using Wrapped = executorch::extension::WrapUnboxedIntoFunctor<Function>;
  if (are_kinds(values, static_cast<typename Wrapped::ContextRemovedArgsType *>(nullptr))) {
    Wrapped::call(context, values);
    return;
  }
  ET_LOG(Error, "%s: an argument is of another kind", Function::func_name_);
  context.fail(executorch::runtime::Error::InvalidArgument);
}

template <class Function>
executorch::runtime::Error add_checked(Function) {
  return executorch::runtime::register_kernel(executorch::runtime::Kernel(Function::func_name_, call_checked<Function>));
}

}  // namespace edgecomp

#define EDGECOMP_OP(function)                                                      \
  static constexpr const char name_of_##function[] = "edgecomp::" #function ".out"; \
  static const auto registered_##function = edgecomp::add_checked(EXECUTORCH_FN(function, name_of_##function))

// Stands in for the CUDA part where no CUDA compiler was found.
#include <cstring>

#include "hamiltorch/cuda_discrete.h"
#include "hamiltorch/cuda_extended.h"
#include "hamiltorch/cuda_implicit.h"
#include "hamiltorch/cuda_rollout.h"
#include "hamiltorch/cuda_separable.h"
#include "hamiltorch/cuda_variational.h"
#include "hamiltorch/device.h"

namespace hamiltorch {

CudaReport cuda_report() {
  CudaReport report{};
  report.state = CudaState::kNotBuilt;
  std::strncpy(report.message, "built without CUDA (no CUDA compiler was found, or HAMILTORCH_CUDA=OFF)",
               sizeof(report.message) - 1);
  return report;
}

const char* cuda_architectures() { return ""; }

GpuDescription gpu_description(int) { return {}; }

const char* cuda_error_text(int) { return "built without CUDA"; }

template <class T>
int cuda_chain_forward(const CudaPlan&, const ChainNetwork<T>&, const ChainForward<T>&, void*, int, void*) {
  return -1;
}

template <class T>
int cuda_chain_backward(const CudaPlan&, const ChainNetwork<T>&, const ChainBackward<T>&, void*, int, void*) {
  return -1;
}

template int cuda_chain_forward(const CudaPlan&, const ChainNetwork<float>&, const ChainForward<float>&, void*, int,
                                void*);
template int cuda_chain_forward(const CudaPlan&, const ChainNetwork<double>&, const ChainForward<double>&, void*, int,
                                void*);
template int cuda_chain_backward(const CudaPlan&, const ChainNetwork<float>&, const ChainBackward<float>&, void*, int,
                                 void*);
template int cuda_chain_backward(const CudaPlan&, const ChainNetwork<double>&, const ChainBackward<double>&, void*, int,
                                 void*);

template <class T>
int cuda_del_forward(const CudaBlockPlan&, const CudaDelRollout<T>&, const DelArrays<T>&, void*, int, void*) {
  return -1;
}

template <class T>
int cuda_del_adjoint(const CudaBlockPlan&, const CudaDelRollout<T>&, const DelAdjointArrays<T>&, void*, int, void*) {
  return -1;
}

template int cuda_del_forward(const CudaBlockPlan&, const CudaDelRollout<float>&, const DelArrays<float>&, void*, int,
                              void*);
template int cuda_del_forward(const CudaBlockPlan&, const CudaDelRollout<double>&, const DelArrays<double>&, void*, int,
                              void*);
template int cuda_del_adjoint(const CudaBlockPlan&, const CudaDelRollout<float>&, const DelAdjointArrays<float>&, void*,
                              int, void*);
template int cuda_del_adjoint(const CudaBlockPlan&, const CudaDelRollout<double>&, const DelAdjointArrays<double>&,
                              void*, int, void*);

template <class T>
int cuda_implicit_forward(const CudaBlockPlan&, const CudaImplicitRollout<T>&, const ImplicitArrays<T>&, void*, int,
                          void*) {
  return -1;
}

template <class T>
int cuda_implicit_adjoint(const CudaBlockPlan&, const CudaImplicitRollout<T>&, const ImplicitAdjointArrays<T>&, void*,
                          int, void*) {
  return -1;
}

template int cuda_implicit_forward(const CudaBlockPlan&, const CudaImplicitRollout<float>&,
                                   const ImplicitArrays<float>&, void*, int, void*);
template int cuda_implicit_forward(const CudaBlockPlan&, const CudaImplicitRollout<double>&,
                                   const ImplicitArrays<double>&, void*, int, void*);
template int cuda_implicit_adjoint(const CudaBlockPlan&, const CudaImplicitRollout<float>&,
                                   const ImplicitAdjointArrays<float>&, void*, int, void*);
template int cuda_implicit_adjoint(const CudaBlockPlan&, const CudaImplicitRollout<double>&,
                                   const ImplicitAdjointArrays<double>&, void*, int, void*);

template <class T>
int cuda_extended_forward(const CudaBlockPlan&, const CudaExtendedRollout<T>&, const ExtendedArrays<T>&, void*, int,
                          void*) {
  return -1;
}

template <class T>
int cuda_extended_adjoint(const CudaBlockPlan&, const CudaExtendedRollout<T>&, const ExtendedAdjointArrays<T>&, void*,
                          int, void*) {
  return -1;
}

template int cuda_extended_forward(const CudaBlockPlan&, const CudaExtendedRollout<float>&,
                                   const ExtendedArrays<float>&, void*, int, void*);
template int cuda_extended_forward(const CudaBlockPlan&, const CudaExtendedRollout<double>&,
                                   const ExtendedArrays<double>&, void*, int, void*);
template int cuda_extended_adjoint(const CudaBlockPlan&, const CudaExtendedRollout<float>&,
                                   const ExtendedAdjointArrays<float>&, void*, int, void*);
template int cuda_extended_adjoint(const CudaBlockPlan&, const CudaExtendedRollout<double>&,
                                   const ExtendedAdjointArrays<double>&, void*, int, void*);

template <class T>
int cuda_discrete_forward(const CudaBlockPlan&, const CudaDiscreteRollout<T>&, const DiscreteArrays<T>&, void*, int,
                          void*) {
  return -1;
}

template <class T>
int cuda_discrete_adjoint(const CudaBlockPlan&, const CudaDiscreteRollout<T>&, const DiscreteAdjointArrays<T>&, void*,
                          int, void*) {
  return -1;
}

template int cuda_discrete_forward(const CudaBlockPlan&, const CudaDiscreteRollout<float>&,
                                   const DiscreteArrays<float>&, void*, int, void*);
template int cuda_discrete_forward(const CudaBlockPlan&, const CudaDiscreteRollout<double>&,
                                   const DiscreteArrays<double>&, void*, int, void*);
template int cuda_discrete_adjoint(const CudaBlockPlan&, const CudaDiscreteRollout<float>&,
                                   const DiscreteAdjointArrays<float>&, void*, int, void*);
template int cuda_discrete_adjoint(const CudaBlockPlan&, const CudaDiscreteRollout<double>&,
                                   const DiscreteAdjointArrays<double>&, void*, int, void*);

template <class T>
int cuda_separable_forward(const CudaBlockPlan&, const CudaSeparableRollout<T>&, const SeparableArrays<T>&, void*, int,
                           void*) {
  return -1;
}

template <class T>
int cuda_separable_adjoint(const CudaBlockPlan&, const CudaSeparableRollout<T>&, const SeparableAdjointArrays<T>&,
                           void*, int, void*) {
  return -1;
}

template int cuda_separable_forward(const CudaBlockPlan&, const CudaSeparableRollout<float>&,
                                    const SeparableArrays<float>&, void*, int, void*);
template int cuda_separable_forward(const CudaBlockPlan&, const CudaSeparableRollout<double>&,
                                    const SeparableArrays<double>&, void*, int, void*);
template int cuda_separable_adjoint(const CudaBlockPlan&, const CudaSeparableRollout<float>&,
                                    const SeparableAdjointArrays<float>&, void*, int, void*);
template int cuda_separable_adjoint(const CudaBlockPlan&, const CudaSeparableRollout<double>&,
                                    const SeparableAdjointArrays<double>&, void*, int, void*);

}  // namespace hamiltorch

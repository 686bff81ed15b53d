// An Eigen::ThreadPoolDevice, or anything else with parallelFor, as an executor.
//
//   #define EIGEN_USE_THREADS
//   #include <unsupported/Eigen/CXX11/Tensor>
//   Eigen::ThreadPool pool(4);
//   Eigen::ThreadPoolDevice device(&pool, 4);
//   fovea::scaled_dot_product(q, k, v, out, {}, fovea::exec::on(device));
#pragma once

#include <functional>
#include <unsupported/Eigen/CXX11/Tensor>

#include <fovea/exec/executor.hpp>

namespace fovea::inline FOVEA_ISA::exec {

template <class Device>
class OnDevice {
 public:
  explicit OnDevice(const Device& device) : device_(&device) {}

  Index concurrency() const requires requires(const Device& device) { device.numThreads(); }
  { return Index(device_->numThreads()); }

  template <class F>
  void parallel_for(Index count, double flops, F&& f) const {
    using Range = std::function<void(Eigen::Index, Eigen::Index)>;
    const Range range = [&f](Eigen::Index begin, Eigen::Index end) { f(Index(begin), Index(end)); };
    if constexpr (requires { device_->parallelFor(Eigen::Index{}, Eigen::TensorOpCost(0, 0, flops), range); }) {
      device_->parallelFor(Eigen::Index(count), Eigen::TensorOpCost(0, 0, flops), range);
    } else {
      static_assert(
          requires { device_->parallelFor(Eigen::Index{}, range); },
          "fovea: exec::on takes a device with parallelFor(count, cost, f) or parallelFor(count, f)");
      device_->parallelFor(Eigen::Index(count), range);
    }
  }

 private:
  const Device* device_;  // not owned
};

// The device must outlive the executor.
template <class Device>
OnDevice<Device> on(const Device& device) {
  return OnDevice<Device>(device);
}

}  // namespace fovea::inline FOVEA_ISA::exec

// expect: fovea: exec::on takes a device with parallelFor
#include <fovea/engine/attend.hpp>
#include <fovea/exec/eigen_device.hpp>

void refused() {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  Matrix q, k, v, out;
  struct {
    int numThreads() const { return 1; }
  } device;
  fovea::attend(q, k, v, out, fovea::softmax(), fovea::exec::on(device));
}

// What the fragments of code in the documentation find in place: every public header, and arrays to work on.
#pragma once

#define EIGEN_USE_THREADS
#include <cmath>
#include <cstdio>
#include <functional>
#include <limits>
#include <sstream>
#include <unsupported/Eigen/CXX11/Tensor>
#include <vector>

#include <fovea/cache/contiguous.hpp>
#include <fovea/cache/paged.hpp>
#include <fovea/dense/cached_attention.hpp>
#include <fovea/dense/scaled_dot_product.hpp>
#include <fovea/engine/attend.hpp>
#include <fovea/exec/eigen_device.hpp>
#include <fovea/exec/pool.hpp>
#include <fovea/exec/serial.hpp>
#include <fovea/exec/workspace.hpp>
#include <fovea/parts/combine/merge.hpp>
#include <fovea/parts/kv/batch.hpp>
#include <fovea/parts/kv/contiguous.hpp>
#include <fovea/parts/kv/gathered.hpp>
#include <fovea/parts/kv/paged.hpp>
#include <fovea/parts/kv/quantized.hpp>
#include <fovea/parts/mask/causal.hpp>
#include <fovea/parts/mask/combine.hpp>
#include <fovea/parts/mask/document.hpp>
#include <fovea/parts/mask/prefix.hpp>
#include <fovea/parts/mask/tree.hpp>
#include <fovea/parts/mask/where.hpp>
#include <fovea/parts/mask/window.hpp>
#include <fovea/parts/position/rotary.hpp>
#include <fovea/parts/score/alibi.hpp>
#include <fovea/parts/score/bias.hpp>
#include <fovea/parts/score/each.hpp>
#include <fovea/parts/score/soft_cap.hpp>

using Tensor = Eigen::Tensor<float, 4, Eigen::RowMajor>;
using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

namespace mask = fovea::mask;
namespace score = fovea::score;

inline Tensor q(2, 8, 512, 64), k(2, 2, 512, 64), v(2, 2, 512, 64), out(2, 8, 512, 64);
inline Eigen::Tensor<float, 3, Eigen::RowMajor> log_sum(2, 8, 512);
